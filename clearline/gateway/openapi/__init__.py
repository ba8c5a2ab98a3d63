"""The gateway's contract in OpenAPI 3.1: `document.py` puts it together from the tables beside it and the code's own
models, problems and reasons."""
