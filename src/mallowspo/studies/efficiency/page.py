def figures(results): return {}
def page(results): raise NotImplementedError
