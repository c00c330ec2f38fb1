"""What every ONNX variant needs: nodes, values from inside, rules to keep, parity with eager, a place in the bundle."""
