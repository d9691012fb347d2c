"""mem0: a memory is extracted, embedded, and found again."""

from cases import case, main
from connect import config
from mem0 import Memory


@case
def remember_and_search():
    config["vector_store"]["config"]["path"] = "vectors"
    memory = Memory.from_config(config)
    added = memory.add("I live in Paris", user_id="ada")["results"]
    assert [item["memory"] for item in added] == ["User lives in Paris"]
    found = memory.search("User lives in Paris", filters={"user_id": "ada"})["results"]
    assert [item["memory"] for item in found] == ["User lives in Paris"]


main()
