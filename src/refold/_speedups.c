/* What refold does for every message, in C: parsing frames off the wire, and a look at timestamps.
 *
 * Optional: refold.jetstream.frames has the same in Python, and every test of it runs against both.
 * Only the stable ABI of Python 3.11 is used.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define NUMBERS 4   /* a reply subject has stream sequence, consumer sequence, timestamp, pending */
#define MEMO 256    /* tokens that come again and again are made once */

typedef struct {
    PyObject *text[MEMO];
} Memo;

/* The str of a token; the same object as before where it came lately. */
static PyObject *
token(Memo *memo, const char *start, Py_ssize_t size)
{
    unsigned int hash = 5381;
    for (Py_ssize_t i = 0; i < size; i++)
        hash = hash * 33 + (unsigned char)start[i];
    PyObject **slot = &memo->text[hash % MEMO];
    if (*slot != NULL) {
        Py_ssize_t known_size;
        const char *known = PyUnicode_AsUTF8AndSize(*slot, &known_size);
        if (known == NULL)
            PyErr_Clear();
        else if (known_size == size && memcmp(known, start, (size_t)size) == 0) {
            Py_INCREF(*slot);
            return *slot;
        }
    }
    PyObject *made = PyUnicode_DecodeUTF8(start, size, "surrogateescape");
    if (made != NULL) {
        Py_XDECREF(*slot);
        Py_INCREF(made);
        *slot = made;
    }
    return made;
}

/* Digits to a number; -1 where there is anything else, or too many of them. */
static long long
number(const char *start, const char *end)
{
    long long value = 0;
    if (start == end || end - start > 18)
        return -1;
    for (; start < end; start++) {
        if (*start < '0' || *start > '9')
            return -1;
        value = value * 10 + (*start - '0');
    }
    return value;
}

static int
append(PyObject *list, PyObject *item)
{
    if (item == NULL)
        return -1;
    int failed = PyList_Append(list, item);
    Py_DECREF(item);
    return failed;
}

/* Splits [start, end) at a character into at most `most` parts; how many there were, or most + 1. */
static int
split(const char *start, const char *end, char at, const char **parts, int most)
{
    int count = 0;
    parts[0] = start;
    for (const char *c = start; c < end; c++)
        if (*c == at) {
            if (++count > most)
                return most + 1;
            parts[count] = c + 1;
        }
    parts[count + 1] = end + 1;
    return count + 1;
}

/* The numbers of a reply subject, at its end or, in the form with domain and account, before what may still be added; 0
   where it is none of JetStream's. */
static int
reply_numbers(const char *start, const char *end, long long *numbers)
{
    const char *tokens[14];
    int count = split(start, end, '.', tokens, 12);
    if (count < 9 || count == 10)
        return 0;
    for (int i = 0; i < NUMBERS; i++) {
        const char **at = tokens + (count == 9 ? 5 : 7) + i;
        Py_ssize_t size = at[1] - 1 - at[0];
        numbers[i] = (size > 18) ? (i == 2 ? 0 : -1) : number(at[0], at[1] - 1);
        if (numbers[i] < 0)
            return 0;
    }
    return 1;
}

enum { TYPES, IDS, NAMES, HEADERS, BODIES, POSITIONS, DELIVERIES, LISTS };

PyDoc_STRVAR(parse_doc,
"parse(data, sid, prefix, types, ids, names, headers, bodies, positions, deliveries)\n--\n\n"
"Appends the message frames that data begins with to the lists; (bytes taken, pending of the last one).");

static PyObject *
parse(PyObject *module, PyObject *args)
{
    const char *data, *sid, *prefix;
    Py_ssize_t size, sid_size, prefix_size;
    PyObject *lists[LISTS];
    if (!PyArg_ParseTuple(args, "y#y#y#O!O!O!O!O!O!O!", &data, &size, &sid, &sid_size, &prefix, &prefix_size,
                          &PyList_Type, &lists[0], &PyList_Type, &lists[1], &PyList_Type, &lists[2],
                          &PyList_Type, &lists[3], &PyList_Type, &lists[4], &PyList_Type, &lists[5],
                          &PyList_Type, &lists[6]))
        return NULL;
    Memo *memo = PyModule_GetState(module);
    const char *at = data, *end = data + size;
    long long pending = 0;
    while (at < end) {
        const char *line_end = memchr(at, '\r', (size_t)(end - at));
        if (line_end == NULL || line_end + 1 >= end || line_end[1] != '\n')
            break;
        const char *words[8];
        int count = split(at, line_end, ' ', words, 6);
        int with_headers = count == 6 && words[1] - at == 5 && memcmp(at, "HMSG", 4) == 0;
        if (!with_headers && !(count == 5 && words[1] - at == 4 && memcmp(at, "MSG", 3) == 0))
            break;
        if (words[3] - 1 - words[2] != sid_size || memcmp(words[2], sid, (size_t)sid_size) != 0)
            break;
        long long total = number(words[count - 1], line_end);
        long long head = with_headers ? number(words[4], words[5] - 1) : 0;
        if (total < 0 || head < 0 || head > total) {
            PyErr_SetString(PyExc_ValueError, "a message frame has no valid sizes");
            return NULL;
        }
        const char *content = line_end + 2;
        if (end - content < total + 2)
            break;
        long long numbers[NUMBERS];
        if (!reply_numbers(words[3], words[4] - 1, numbers)) {
            PyErr_SetString(PyExc_ValueError, "a reply subject is none of JetStream's");
            return NULL;
        }
        if (append(lists[DELIVERIES], PyLong_FromLongLong(numbers[1])) < 0)
            return NULL;
        pending = numbers[3];
        const char *subject = words[1], *subject_end = words[2] - 1;
        const char *tokens[5];
        if (subject_end - subject > prefix_size && memcmp(subject, prefix, (size_t)prefix_size) == 0 &&
            split(subject + prefix_size, subject_end, '.', tokens, 3) == 3) {
            if (append(lists[TYPES], token(memo, tokens[0], tokens[1] - 1 - tokens[0])) < 0 ||
                append(lists[IDS], PyUnicode_DecodeUTF8(tokens[1], tokens[2] - 1 - tokens[1], "surrogateescape")) < 0 ||
                append(lists[NAMES], token(memo, tokens[2], subject_end - tokens[2])) < 0 ||
                append(lists[BODIES], PyBytes_FromStringAndSize(content + head, (Py_ssize_t)(total - head))) < 0 ||
                append(lists[POSITIONS], PyLong_FromLongLong(numbers[0])) < 0)
                return NULL;
            if (with_headers) {
                if (append(lists[HEADERS], PyBytes_FromStringAndSize(content, (Py_ssize_t)head)) < 0)
                    return NULL;
            }
            else if (PyList_Append(lists[HEADERS], Py_None) < 0)
                return NULL;
        }
        at = content + total + 2;
    }
    return Py_BuildValue("nL", at - data, pending);
}

PyDoc_STRVAR(fold_doc,
"dispatch(types, ids, names, positions, bodies, headers, tables, unusual)\n--\n\n"
"Gives every message to the step of its entry; `unusual` gets the index of each message that needs a closer look.");

typedef struct {
    Memo memo;
    PyObject *aggregate_id, *type, *aggregate_type, *position, *raw_headers;
} State;

/* Whether an attribute of an event equals a text; -1 for an error. */
static int
is_equal(PyObject *event, PyObject *name, PyObject *text)
{
    PyObject *value = PyObject_GetAttr(event, name);
    if (value == NULL)
        return -1;
    int same = value == text || (PyUnicode_Check(value) && PyUnicode_Compare(value, text) == 0);
    Py_DECREF(value);
    return same;
}

/* One message through one entry: 1 done, 0 needs a closer look, -1 error. An entry is (decode, step, type, name, …). */
static int
fold_one(State *state, PyObject *entry, PyObject *id, PyObject *position, PyObject *body, PyObject *headers)
{
    PyObject *event = PyObject_CallFunctionObjArgs(PyTuple_GetItem(entry, 0), body, headers, NULL);
    if (event == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PyErr_Clear(); /* decoded once more where the reason is told */
        return 0;
    }
    int well = is_equal(event, state->aggregate_id, id);
    if (well == 1)
        well = is_equal(event, state->type, PyTuple_GetItem(entry, 3));
    if (well == 1)
        well = is_equal(event, state->aggregate_type, PyTuple_GetItem(entry, 2));
    if (well == 1) {
        /* Events are frozen for everybody else. */
        if (PyObject_GenericSetAttr(event, state->position, position) < 0 ||
            PyObject_GenericSetAttr(event, state->raw_headers, headers) < 0)
            well = -1;
        else {
            PyObject *result = PyObject_CallFunctionObjArgs(PyTuple_GetItem(entry, 1), event, NULL);
            if (result == NULL)
                well = -1;
            Py_XDECREF(result);
        }
    }
    Py_DECREF(event);
    return well;
}

static PyObject *
dispatch(PyObject *module, PyObject *args)
{
    PyObject *types, *ids, *names, *positions, *bodies, *headers, *tables, *unusual;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!O!O!O", &PyList_Type, &types, &PyList_Type, &ids, &PyList_Type, &names,
                          &PyList_Type, &positions, &PyList_Type, &bodies, &PyList_Type, &headers, &PyDict_Type, &tables,
                          &unusual))
        return NULL;
    State *state = PyModule_GetState(module);
    Py_ssize_t count = PyList_Size(bodies);
    for (Py_ssize_t i = 0; i < count; i++) {
        /* A step is the user's code: it must not be able to free what is used here, so the lists are the caller's own. */
        PyObject *id = PyList_GetItem(ids, i), *position = PyList_GetItem(positions, i);
        PyObject *body = PyList_GetItem(bodies, i), *block = PyList_GetItem(headers, i);
        PyObject *type = PyList_GetItem(types, i), *name = PyList_GetItem(names, i);
        if (!id || !position || !body || !block || !type || !name)
            return NULL;
        PyObject *table = PyDict_GetItemWithError(tables, type);
        PyObject *entries = table ? PyDict_GetItemWithError(table, name) : NULL;
        if (PyErr_Occurred())
            return NULL;
        int well = 0;
        if (entries != NULL && PyTuple_Size(entries) == 1 &&
            PyUnicode_FindChar(id, '%', 0, PyUnicode_GetLength(id), 1) == -1) {
            Py_INCREF(entries);
            well = fold_one(state, PyTuple_GetItem(entries, 0), id, position, body, block);
            Py_DECREF(entries);
        }
        if (well == 0) {
            PyObject *index = PyLong_FromSsize_t(i);
            PyObject *result = index ? PyObject_CallFunctionObjArgs(unusual, index, NULL) : NULL;
            Py_XDECREF(index);
            Py_XDECREF(result);
            if (result == NULL)
                return NULL;
        }
        if (well < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"parse", parse, METH_VARARGS, parse_doc},
    {"dispatch", dispatch, METH_VARARGS, fold_doc},
    {NULL, NULL, 0, NULL},
};

static int
setup(PyObject *module)
{
    State *state = PyModule_GetState(module);
    memset(state, 0, sizeof(State));
    state->aggregate_id = PyUnicode_InternFromString("aggregate_id");
    state->type = PyUnicode_InternFromString("type");
    state->aggregate_type = PyUnicode_InternFromString("aggregate_type");
    state->position = PyUnicode_InternFromString("position");
    state->raw_headers = PyUnicode_InternFromString("raw_headers");
    return state->raw_headers && state->position && state->aggregate_type && state->type && state->aggregate_id ? 0 : -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, setup}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_speedups", "What refold does for every message, in C.", sizeof(State), methods, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
