"""The compiled outer loops: `direct` and `strips`, and the choice between them."""
