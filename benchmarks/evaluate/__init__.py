"""What `resnetrt evaluate` does over a bundle: run or resume, judge, explain, report."""
