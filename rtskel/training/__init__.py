"""Training and measuring a model: synthesis, corpora, corruptions, training, evaluation.

In: recordings of clean motion, real or synthetic. Out: weights, and the errors that an engine leaves.
Must hold: the same seed gives the same result, and nothing that serves imports this package.
"""
