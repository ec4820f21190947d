"""The compiled outer loops: strips of images, rows of features, and changes of layout."""
