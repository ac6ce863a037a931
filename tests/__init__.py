import pytest

pytest.register_assert_rewrite("tests.numbers")  # so that a failed assertion there shows its values
