"""From files to tensors: volumes, slices, patches and the degradation that makes LR from HR."""
