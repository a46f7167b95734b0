"""Model factories and tasks to try `idp-deploy` on; the tests use them as fixtures.

A factory is a callable that returns a freshly initialised `nn.Module` (`--model sample_models.mobilenet_v1:build`); a
task is a callable that returns data, loss and metric (`--task sample_models.digits:task`). Nothing here is downloaded:
the digits ship with scikit-learn, the characters are rendered, the sentences are generated.
"""
