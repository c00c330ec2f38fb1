"""The whole pipeline of `resnetrt deploy`, and the choice of the engine that it keeps."""
