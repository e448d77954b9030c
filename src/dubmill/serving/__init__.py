"""The KServe predictor: V1 and V2 protocols, a raw route for video bytes, and a studio page."""
