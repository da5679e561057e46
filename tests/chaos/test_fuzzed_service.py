"""Whatever fits the OpenAPI document, and much that does not, is answered without a 5xx."""

import time
from typing import Any

import pytest

pytest.importorskip("schemathesis")

import schemathesis
import schemathesis.specs.openapi.checks
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from tests.support.campaign import LONG, Campaign
from tests.support.engines import embedded
from tests.support.serving import AS_ADMIN, make_app, make_index, with_service

EXAMPLES = 250 if LONG else 5
"""Requests of each operation."""
SLOW_S = 1.0
"""Processor time of one answer, above which the long form counts it as lost."""
UNWANTED = CHECKS.get_by_names(
    ["not_a_server_error", "response_schema_conformance", "content_type_conformance"]
)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = embedded(tmp_path_factory.mktemp("openapi") / "index")
    make_index(base)
    app = make_app(with_service(base))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_no_request_breaks_it(campaign: Campaign, document: Any) -> None:
    """The app runs in this process: a busy machine adds nothing to its processor time."""
    operations = [one.ok() for one in document.get_all_operations()]
    assert len(operations) > 8
    scenario = campaign("fuzz: requests of the service", "processor time of an answer")
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def answered(case: Any) -> None:
            scenario.tries += 1
            response = spent(case)
            case.validate_response(response, headers=AS_ADMIN, checks=UNWANTED)

        def spent(case: Any) -> Any:
            start = time.process_time()
            response = case.call(headers=AS_ADMIN)
            seconds = time.process_time() - start
            scenario.worst_s = max(scenario.worst_s, seconds)
            if LONG and seconds > SLOW_S:
                scenario.losses.append(f"{seconds:.1f} s for {case.method} {case.formatted_path}")
            return response

        answered()
    assert not scenario.losses
