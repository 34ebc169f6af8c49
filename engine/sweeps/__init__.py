"""Faces that hold several identities: found over the whole gallery, grouped, ranked, reported."""
