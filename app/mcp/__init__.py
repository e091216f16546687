"""`fastvlm-mlx mcp`: the model as tools of the Model Context Protocol.

`run` starts it; `server` translates tool calls to requests for the engine of
`app.server`; `tools` lists the tools; `images` and `roots` read what their image
arguments name; `http` is the transport with the access rules of `serve`.
"""
