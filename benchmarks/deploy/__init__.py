"""The whole pipeline of `resnetrt deploy`, and which engine it keeps."""
