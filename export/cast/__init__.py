"""FP16, BF16 and FP8 variants, and INT8 over FP16."""
