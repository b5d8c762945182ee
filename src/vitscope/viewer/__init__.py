"""The viewer: read-only web pages over atlases. `app.py` has the routes and `serve`."""
