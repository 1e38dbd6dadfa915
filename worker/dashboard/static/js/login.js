// The login form: says why the last try failed, and leads back to the page that was asked for, which the
// server answers with this form in its place. Notes in this browser that there is a login to end.

import { keep, kept } from "./storage.js";

const query = new URLSearchParams(location.search);
const problem = document.getElementById("problem");
const isAsked = location.pathname !== "/login";

if (isAsked) keep("next", location.pathname + location.search);
document.getElementById("next").value = query.get("next") ?? kept("next") ?? "/";
if (query.has("wrong")) problem.textContent = "This is not the token. Try again.";
if (query.has("wait")) problem.textContent = "Too many wrong tokens: wait a minute, then try again.";
problem.hidden = !problem.textContent;
keep("login", null);
document.querySelector("form.login").addEventListener("submit", () => keep("login", "yes"));
