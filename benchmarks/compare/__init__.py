"""bigmodel against its peers: each network trained once per seed, compressed by each tool, measured on the file."""
