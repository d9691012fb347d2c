"""HTTP as the frontend sees it: requests, responses, streams, deadlines and disconnects."""
