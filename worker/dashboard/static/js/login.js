// The login form: says why the last try failed, and leads back to the page that was asked for.

const query = new URLSearchParams(location.search);
const problem = document.getElementById("problem");
const next = query.get("next") ?? (location.pathname === "/login" ? "/" : location.pathname);

document.getElementById("next").value = next;
if (query.has("wrong")) problem.textContent = "This is not the token. Try again.";
if (query.has("wait")) problem.textContent = "Too many wrong tokens: wait a minute, then try again.";
problem.hidden = !problem.textContent;
