from tarvis_jax.compiled import quick_compiler_options


def test_unoptimized_on_cpus_only():
    assert quick_compiler_options("cpu") == {"xla_backend_optimization_level": 0}
    assert quick_compiler_options("gpu") == quick_compiler_options("tpu") == {}
