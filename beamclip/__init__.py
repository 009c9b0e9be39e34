"""beamclip: turn a large frozen CLIP into small, fast vision models, after BeamCLIP (arXiv 2301.02903)."""

__version__ = "0.1.0"
