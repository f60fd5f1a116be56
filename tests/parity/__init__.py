"""The networks beside their peers in PyTorch."""
