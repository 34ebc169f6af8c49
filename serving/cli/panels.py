"""The headings under which `sosie --help` lists the commands."""

DEPLOYMENT = "A deployment"
PHOTOGRAPHS = "Photographs alone"
REGISTRY = "Faces on record"
FIGURES = "Figures"
