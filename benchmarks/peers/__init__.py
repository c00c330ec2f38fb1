"""Other quantizers compared with ours: the same networks, images, machine and engine settings, in one run.

python -m resnetrt.benchmarks.peers --help
"""
