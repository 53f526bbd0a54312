"""Tools around the server: an estimator on a camera, a replay of recordings, a live table, drawings, the demo.

In: cameras, videos, recordings, messages of a server. Out: messages to a server, tables, pictures, recordings.
Must hold: they use the same client as any other program.
"""
