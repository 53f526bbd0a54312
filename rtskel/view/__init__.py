"""A live picture of every stream in the browser: a small web server, and the page that it serves.

In: messages of a server (`LiveFeed`), or recordings (`RecordingFeed`). Out: a page on http://127.0.0.1:8400.
Needs the package websockets (extra `view`). The page is read-only, and draws on a canvas without WebGL: it is as fast
on machines without a GPU.
"""

from rtskel.view.feed import Feed, LiveFeed, RecordingFeed
from rtskel.view.site import Site, SiteConfig, address

__all__ = ["Feed", "LiveFeed", "RecordingFeed", "Site", "SiteConfig", "address"]
