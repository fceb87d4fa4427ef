"""What the two doors, `streamfn.session` (Trio) and `streamfn.sync`, are made of."""
