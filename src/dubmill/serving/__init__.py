"""The KServe predictor: jobs, V1 and V2 protocols, a form route and a studio page; a worker behind a queue."""
