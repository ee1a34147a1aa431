"""What the web tier and the conversion tier agree on. Imports neither Flask, SQLAlchemy nor pydub."""
