"""Back-translation: a sign language translation network on skeletons, and how well what it says agrees with the truth.

In: pose recordings with texts (data), refined, filtered or as they are (inputs). Out: a translator, its translations,
and their scores (metrics). The network is that of Camgoz et al., Sign Language Transformers (CVPR 2020), in the sizes
of the Skeletor paper's section 5.6; it shares its encoder layers with `rtskel.model`.

Must hold: the same seed gives the same translator, also if training was interrupted and resumed; and what is done with
poses before they are translated is part of the translator and of every result.
"""
