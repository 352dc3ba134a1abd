"""Models: [0, 1] images → logits; normalisation is the first layer.

`base` says what a model is and builds one by name; `compact`, `torchvision` and `user` are the kinds of names;
`weights` and `checkpoint` read and write files, never running code from them.
"""
