"""`fastvlm-mlx serve`: OpenAI's and Ollama's protocols, and the page, over one model.

    gate        who may ask: Host, Origin, token, size and time of a request
    openai      /v1/...         \\  a request -> a Question; Chunks -> a reply
    ollama      /api/...        /
    worker      one thread that owns the model, and the queue before it
    images    bytes -> attachments; fetch gets those at addresses

An extra, `pip install 'fastvlm-mlx[serve]'`.
"""
