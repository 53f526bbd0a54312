"""Tools around the server: an estimator on a camera, a replay of recordings, a live table, drawings, the demo.

In: cameras, videos, recordings, messages of a server. Out: messages to a server, tables, pictures, recordings.
They speak to a server as any other client does.
"""
