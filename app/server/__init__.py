"""`fastvlm-mlx serve`: OpenAI's and Ollama's protocols and a web page for one model.

From the bottom up, each folder imports only those above it in this list:

    http/       middleware (Host, Origin, token), request bodies, limits, errors
    engine/     the model's thread and its queue; fetching and decoding images
    api/        the two protocols: body -> GenerationRequest, StreamEvent -> response
    routes.py   the ASGI application
    serve.py    the command

Needs the packages of the extra `serve`.
"""
