"""Charts as inline SVG: marks carry classes, and the page's style sheet gives them colour."""
