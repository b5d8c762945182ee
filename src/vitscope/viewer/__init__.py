"""The viewer: web pages over atlases. `files.py` names every file; `app.py` and `export.py` give them out."""
