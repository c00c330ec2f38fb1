"""What `resnetrt evaluate` does with a bundle: run or resume, judge, explain, report."""
