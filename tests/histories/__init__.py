"""Random histories: browsers, requests in flight, late and lost answers, thieves, clocks, keys, outages, revocations.

``model`` says what may be so and knows no cookies; ``world`` is everything around the filter. ``generate`` makes
histories up, and ``machine`` carries them out, with ``operations`` for what applications do in a ``request``. What then
happens is held against the model: by the ``referee`` at every load, by ``acts`` at every response.
``python -m tests.histories`` runs many.
"""
