"""The recipes: ordered stages, each names its settings. `acereason plan NAME` shows one."""
