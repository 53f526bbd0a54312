"""Training and measuring a model: synthesis, corpora, corruptions, training, evaluation.

In: recordings of real or synthetic motion. Out: weights, and figures of how well an engine refines.
Nothing here is imported by what serves.
"""
