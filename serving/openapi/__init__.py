"""What a server is asked and what it answers, as an OpenAPI document made from the bundles that it serves."""
