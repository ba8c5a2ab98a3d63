"""One module per noun; each has a `router` that `clearline.gateway.app` includes."""
