"""What the library costs, beside a hand-written client and other libraries. `python -m benchmarks --help`"""
