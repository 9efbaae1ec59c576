"""placeholder"""
def engine_problem(): return "not yet"
