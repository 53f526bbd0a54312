"""Pairs: what a body did exactly, and what a real estimator says of its picture.

In: motion of the 50 joints. Out: clips, each with the true joints, what `rtskel estimate` finds in the rendered
pictures, and where both come from; `rtskel.pairs.clip` describes the file. `rtskel.pairs.make` is `rtskel pairs`.

A clip is made in this order: `motion` (with `strokes`) chooses what is done, `body` a person, `retarget` turns the
person's bones, `camera`, `scene` and `painter` make pictures, `exposure` spoils them as cameras and codecs do, and
`rtskel.tools.estimate` says what it sees.

Must hold: the same seed gives the same clips, whatever the number of workers; motions, bodies and cameras of the clips
that are kept for testing never occur in training; a clip is complete under its name or absent.
"""
