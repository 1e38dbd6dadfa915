// Requests to the dashboard's own server. Takes paths; gives JSON, or an ApiError with a line for people.

const LOGIN_PAUSE_MS = 10000;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The server gives its login page in place of this one once a login is needed. */
function askForLogin() {
  const last = Number(sessionStorage.getItem("asked-for-login"));
  if (Date.now() - last < LOGIN_PAUSE_MS) return; // a login that does not help: no endless reloading
  sessionStorage.setItem("asked-for-login", Date.now());
  location.reload();
}

async function checked(response) {
  if (response.ok) return response;
  if (response.status === 401) askForLogin();
  const body = await response.json().catch(() => ({}));
  const line = typeof body.error === "string" ? body.error : `the dashboard answered ${response.status}`;
  throw new ApiError(response.status, line);
}

/** The response to a GET; raises ApiError, with status 0 if nothing answers. */
export async function get(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the dashboard does not answer");
  }
  return checked(response);
}

/** The JSON of a GET. */
export async function getJson(path, options = {}) {
  return (await get(path, options)).json();
}

/** The path of a camera in the API. */
export function cameraPath(id, rest = "") {
  return `/api/cameras/${encodeURIComponent(id)}${rest}`;
}

/** The id at the end of this page's own path, behind a prefix such as /camera/. */
export function idOfPage(prefix) {
  const text = location.pathname.slice(prefix.length);
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
