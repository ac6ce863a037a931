import pytest

pytest.register_assert_rewrite("tests.numbers")  # so that a failure there says by how much
