"""What is stored of users: the work of an item job, there and back."""

import json

from p4r_qdrant.records import Item, Review
from p4r_qdrant.users.records import ItemWork

REVIEW = Review(user_id="ada", item_id="kettle", rating=5, timestamp=7, text="It boils. é")


def test_the_work_of_an_item_survives_json() -> None:
    item = Item.model_validate(
        {"item_id": "kettle", "title": "Kettle", "price": 9.5, "tags": ["a"]}
    )
    work = ItemWork(item_id="kettle", item=item, reviews=[REVIEW])
    body = json.loads(json.dumps(dict(work.job().body)))
    assert ItemWork.model_validate(body) == work


def test_other_content_is_another_job() -> None:
    with_review = ItemWork(item_id="kettle", reviews=[REVIEW])
    assert with_review.job().key != ItemWork(item_id="kettle").job().key
    assert with_review.job().key == ItemWork(item_id="kettle", reviews=[REVIEW]).job().key
