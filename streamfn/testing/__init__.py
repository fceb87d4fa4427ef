"""What tests of streamfn, ours and yours, are made of."""
