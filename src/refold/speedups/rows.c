/* Views to rows, and rows to what databases take. Whatever is out of the ordinary is left to Python, which also tells what is
 * wrong with it.
 */
#include "native.h"
#include <datetime.h>

#define AHEAD 16 /* views that are fetched into the processor's cache before their turn */
#define MOST_COLUMNS 256
#define KNOWN 1024 /* decimals whose texts are kept; a power of two */

enum { NULLABLE = 1, LIMITED = 2, NOT_EMPTY = 4 };

typedef struct {
    PyObject_HEAD
    PyTypeObject *view_class, *decimal, *uuid;
    Py_ssize_t count;
    Py_ssize_t *at;       /* slot of each column in a view */
    PyObject *kinds, *flags; /* bytes, one a column: see refold.view */
    Py_ssize_t limit;     /* most characters of a key or an indexed text */
    struct {
        PyObject *decimal, *text;
    } known[KNOWN]; /* a decimal is asked for its text when it is checked and when it is written, and many views share it */
} RowCodec;

/* The text of a Decimal. */
static PyObject *
decimal_text(RowCodec *self, PyObject *decimal)
{
    uintptr_t at = ((uintptr_t)decimal >> 4) % KNOWN;
    if (self->known[at].decimal == decimal)
        return Py_NewRef(self->known[at].text);
    PyObject *text = PyObject_Str(decimal);
    if (text != NULL) {
        Py_XSETREF(self->known[at].decimal, Py_NewRef(decimal));
        Py_XSETREF(self->known[at].text, Py_NewRef(text));
    }
    return text;
}

static char
kind_of(const RowCodec *self, Py_ssize_t column)
{
    return PyBytes_AS_STRING(self->kinds)[column];
}

/* -- Freezing ------------------------------------------------------------------------------------------------------- */

static PyObject *
freeze(const RowCodec *self, PyObject *item)
{
    PyObject *key = PyTuple_GET_ITEM(item, 0), *view = PyTuple_GET_ITEM(item, 1);
    if (!Py_IS_TYPE(view, self->view_class)) {
        PyErr_Format(PyExc_TypeError, "a view is of class %s", Py_TYPE(view)->tp_name);
        return NULL;
    }
    PyObject *row = PyTuple_New(self->count);
    if (row == NULL)
        return NULL;
    PyTuple_SET_ITEM(row, 0, Py_NewRef(key));
    for (Py_ssize_t i = 1; i < self->count; i++) {
        PyObject *cell = SLOT(view, self->at[i]);
        if (cell == NULL) {
            PyErr_SetString(PyExc_TypeError, "a field of a view was deleted");
            Py_DECREF(row);
            return NULL;
        }
        PyTuple_SET_ITEM(row, i, Py_NewRef(cell));
    }
    PyObject_GC_UnTrack(row); /* cells are plain values: the collector need not look at so many rows */
    return row;
}

static PyObject *
codec_freeze(RowCodec *self, PyObject *items)
{
    int fits = PyList_Check(items);
    Py_ssize_t count = fits ? PyList_GET_SIZE(items) : 0;
    for (Py_ssize_t i = 0; i < count && fits; i++)
        fits = PyTuple_CheckExact(PyList_GET_ITEM(items, i)) && PyTuple_GET_SIZE(PyList_GET_ITEM(items, i)) == 2;
    if (!fits) {
        PyErr_SetString(PyExc_TypeError, "a list of (key, view) is expected");
        return NULL;
    }
    PyObject *rows = PyList_New(count);
    for (Py_ssize_t i = 0; rows != NULL && i < count; i++) {
        if (i + 2 * AHEAD < count) {
            PyObject *view = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i + 2 * AHEAD), 1);
            for (Py_ssize_t at = 0; at < self->view_class->tp_basicsize; at += 64)
                PREFETCH((char *)view + at);
        }
        if (i + AHEAD < count) {
            PyObject *view = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i + AHEAD), 1);
            for (Py_ssize_t column = 0; Py_IS_TYPE(view, self->view_class) && column < self->count; column++)
                PREFETCH(SLOT(view, self->at[column]));
        }
        PyObject *row = freeze(self, PyList_GET_ITEM(items, i));
        if (row == NULL)
            Py_CLEAR(rows);
        else
            PyList_SET_ITEM(rows, i, row);
    }
    return rows;
}

/* -- Checking ------------------------------------------------------------------------------------------------------- */

static int
is_good_text(const RowCodec *self, PyObject *cell, int flags, char kind)
{
    if (!PyUnicode_CheckExact(cell) || !PyUnicode_IS_COMPACT_ASCII(cell))
        return 0; /* other than ASCII: a closer look */
    Py_ssize_t size = PyUnicode_GET_LENGTH(cell);
    const char *text = PyUnicode_DATA(cell);
    if (memchr(text, '\0', (size_t)size) != NULL || (flags & NOT_EMPTY && size == 0) || (flags & LIMITED && size > self->limit))
        return 0;
    return kind != 'j' || memchr(text, '\\', (size_t)size) == NULL;
}

/* A number's digits without an exponent, and not so many that a closer look is due. */
static int
is_good_decimal(PyObject *text)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(text);
    if (!PyUnicode_IS_COMPACT_ASCII(text) || size > 64)
        return 0;
    for (const char *c = PyUnicode_DATA(text), *end = c + size; c < end; c++)
        if (!((*c >= '0' && *c <= '9') || *c == '.' || *c == '-'))
            return 0;
    return 1;
}

static int
is_utc(PyObject *cell)
{
    return PyDateTime_CheckExact(cell) && PyDateTime_DATE_GET_TZINFO(cell) == PyDateTime_TimeZone_UTC;
}

/* Whether every database takes a cell: 1 for certain, 0 for perhaps, -1 for an error. */
static int
is_good(RowCodec *self, PyObject *cell, Py_ssize_t column)
{
    int flags = PyBytes_AS_STRING(self->flags)[column], overflow;
    if (cell == Py_None)
        return (flags & NULLABLE) != 0;
    switch (kind_of(self, column)) {
    case 't':
    case 'j': return is_good_text(self, cell, flags, kind_of(self, column));
    case 'i':
        if (!PyLong_CheckExact(cell))
            return 0;
        PyLong_AsLongLongAndOverflow(cell, &overflow);
        return overflow == 0;
    case 'f': return PyFloat_CheckExact(cell) && Py_IS_FINITE(PyFloat_AS_DOUBLE(cell));
    case 'b': return PyBool_Check(cell);
    case 'T': return is_utc(cell);
    case 'D': return PyDate_CheckExact(cell);
    case 'u': return Py_IS_TYPE(cell, self->uuid);
    case 'B': return PyBytes_CheckExact(cell);
    case 'd': {
        PyObject *text = Py_IS_TYPE(cell, self->decimal) ? decimal_text(self, cell) : NULL;
        int good = text != NULL && is_good_decimal(text);
        Py_XDECREF(text);
        return PyErr_Occurred() ? -1 : good;
    }
    default: return 0;
    }
}

static PyObject *
checked(const RowCodec *self, PyObject *rows, Py_ssize_t i)
{
    PyObject *row = PyList_Check(rows) ? PyList_GET_ITEM(rows, i) : NULL;
    if (row == NULL || !PyTuple_CheckExact(row) || PyTuple_GET_SIZE(row) != self->count) {
        PyErr_SetString(PyExc_TypeError, "a list of rows, as tuples, is expected");
        return NULL;
    }
    return row;
}

/* Fetches what is needed of the rows that come after one into the processor's cache. */
static inline void
fetch_rows(const RowCodec *self, PyObject *rows, Py_ssize_t i)
{
    Py_ssize_t count = PyList_GET_SIZE(rows);
    if (i + 2 * AHEAD < count)
        for (Py_ssize_t at = 0; at < (Py_ssize_t)(sizeof(PyTupleObject) + (size_t)self->count * sizeof(PyObject *)); at += 64)
            PREFETCH((char *)PyList_GET_ITEM(rows, i + 2 * AHEAD) + at);
    PyObject *row = i + AHEAD < count ? PyList_GET_ITEM(rows, i + AHEAD) : NULL;
    if (row != NULL && PyTuple_CheckExact(row) && PyTuple_GET_SIZE(row) == self->count)
        for (Py_ssize_t column = 0; column < self->count; column++)
            PREFETCH((char *)PyTuple_GET_ITEM(row, column));
}

static PyObject *
codec_are_good(RowCodec *self, PyObject *rows)
{
    Py_ssize_t count = PyList_Check(rows) ? PyList_GET_SIZE(rows) : 1;
    int good = 1;
    for (Py_ssize_t i = 0; i < count && good == 1; i++) {
        PyObject *row = checked(self, rows, i);
        if (row == NULL)
            return NULL;
        fetch_rows(self, rows, i);
        for (Py_ssize_t column = 0; column < self->count && good == 1; column++)
            good = is_good(self, PyTuple_GET_ITEM(row, column), column);
    }
    return good < 0 ? NULL : PyBool_FromLong(good);
}

/* -- PostgreSQL: rows as COPY takes them in its binary format ---------------------------------------------------------
 * https://www.postgresql.org/docs/current/sql-copy.html; of a numeric: src/backend/utils/adt/numeric.c, numeric_recv
 */

typedef struct {
    char *data;
    Py_ssize_t size, room;
} Buffer;

static char *
extend(Buffer *buffer, Py_ssize_t size)
{
    if (buffer->size + size > buffer->room) {
        Py_ssize_t room = 2 * (buffer->size + size) + 65536;
        char *data = PyMem_Realloc(buffer->data, (size_t)room);
        if (data == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        buffer->data = data;
        buffer->room = room;
    }
    char *at = buffer->data + buffer->size;
    buffer->size += size;
    return at;
}

static char *
put_number(char *at, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8)
        at[i] = (char)(value & 0xff);
    return at + bytes;
}

static int
put(Buffer *buffer, const char *data, Py_ssize_t size, int version)
{
    char *at = extend(buffer, 4 + version + size);
    if (at == NULL)
        return -1;
    at = put_number(at, (uint64_t)(size + version), 4);
    if (version)
        *at++ = 1; /* of JSONB */
    memcpy(at, data, (size_t)size);
    return 1;
}

static int
put_eight(Buffer *buffer, uint64_t value)
{
    char *at = extend(buffer, 12);
    if (at == NULL)
        return -1;
    put_number(put_number(at, 8, 4), value, 8);
    return 1;
}

/* Days from 2000-01-01. */
static long long
days_of(int year, int month, int day)
{
    int y = month > 2 ? year : year - 1, m = month > 2 ? month - 3 : month + 9;
    return 365LL * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 730425;
}

static uint64_t
microseconds_of(PyObject *cell)
{
    long long days = days_of(PyDateTime_GET_YEAR(cell), PyDateTime_GET_MONTH(cell), PyDateTime_GET_DAY(cell));
    long long seconds = PyDateTime_DATE_GET_HOUR(cell) * 3600LL + PyDateTime_DATE_GET_MINUTE(cell) * 60LL +
                        PyDateTime_DATE_GET_SECOND(cell);
    return (uint64_t)((days * 86400 + seconds) * 1000000 + PyDateTime_DATE_GET_MICROSECOND(cell));
}

/* A number of up to 64 characters, as groups of four digits around the point. */
static int
put_numeric(Buffer *buffer, const char *text, Py_ssize_t size)
{
    int negative = *text == '-';
    const char *whole = text + negative, *end = text + size, *point = memchr(whole, '.', (size_t)(end - whole));
    const char *whole_end = point ? point : end;
    int fraction = point ? (int)(end - point - 1) : 0, groups[40], count = 0;
    int before = (int)(whole_end - whole + 3) / 4, after = (fraction + 3) / 4;
    for (int i = 0; i < before; i++) {
        const char *stop = whole_end - 4 * (before - 1 - i), *start = stop - 4 < whole ? whole : stop - 4;
        for (groups[count] = 0; start < stop; start++)
            groups[count] = groups[count] * 10 + (*start - '0');
        count++;
    }
    for (int i = 0; i < after; i++) {
        groups[count] = 0;
        for (int j = 0; j < 4; j++)
            groups[count] = groups[count] * 10 + (4 * i + j < fraction ? point[1 + 4 * i + j] - '0' : 0);
        count++;
    }
    int first = 0, weight = before - 1;
    while (first < count && groups[first] == 0)
        first++, weight--;
    while (count > first && groups[count - 1] == 0)
        count--;
    char *at = extend(buffer, 4 + 8 + 2 * (count - first));
    if (at == NULL)
        return -1;
    at = put_number(at, (uint64_t)(8 + 2 * (count - first)), 4);
    at = put_number(at, (uint64_t)(count - first), 2);
    at = put_number(at, (uint64_t)(int64_t)(count == first ? 0 : weight), 2);
    at = put_number(at, negative && count > first ? 0x4000 : 0, 2);
    at = put_number(at, (uint64_t)fraction, 2);
    for (int i = first; i < count; i++)
        at = put_number(at, (uint64_t)groups[i], 2);
    return 1;
}

static int
copy_decimal(RowCodec *self, Buffer *buffer, PyObject *cell)
{
    PyObject *text = decimal_text(self, cell);
    if (text == NULL)
        return -1;
    int done = is_good_decimal(text) ? put_numeric(buffer, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text)) : 0;
    Py_DECREF(text);
    return done;
}

static int
copy_text(Buffer *buffer, PyObject *cell, int version)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(cell, &size);
    if (text == NULL)
        PyErr_Clear(); /* a lone surrogate */
    return text == NULL ? 0 : put(buffer, text, size, version);
}

static int
copy_uuid(Buffer *buffer, PyObject *cell)
{
    PyObject *bytes = PyObject_GetAttrString(cell, "bytes");
    if (bytes == NULL)
        return -1;
    int done = PyBytes_Check(bytes) ? put(buffer, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes), 0) : 0;
    Py_DECREF(bytes);
    return done;
}

static int
copy_date(Buffer *buffer, PyObject *cell)
{
    char *at = extend(buffer, 8);
    if (at == NULL)
        return -1;
    long long days = days_of(PyDateTime_GET_YEAR(cell), PyDateTime_GET_MONTH(cell), PyDateTime_GET_DAY(cell));
    put_number(put_number(at, 4, 4), (uint64_t)days, 4);
    return 1;
}

/* Appends a cell: 1 done, 0 it is left to Python, -1 an error. */
static int
copy_cell(RowCodec *self, Buffer *buffer, PyObject *cell, char kind)
{
    int overflow;
    if (cell == Py_None) {
        char *at = extend(buffer, 4);
        return at == NULL ? -1 : (put_number(at, 0xffffffff, 4), 1);
    }
    switch (kind) {
    case 't':
    case 'j': return PyUnicode_Check(cell) ? copy_text(buffer, cell, kind == 'j') : 0;
    case 'i': {
        long long value = PyLong_CheckExact(cell) ? PyLong_AsLongLongAndOverflow(cell, &overflow) : 0;
        return PyLong_CheckExact(cell) && !overflow ? put_eight(buffer, (uint64_t)value) : 0;
    }
    case 'f': {
        uint64_t bits;
        double value = PyFloat_CheckExact(cell) ? PyFloat_AS_DOUBLE(cell) : 0;
        memcpy(&bits, &value, 8);
        return PyFloat_CheckExact(cell) ? put_eight(buffer, bits) : 0;
    }
    case 'b': return PyBool_Check(cell) ? put(buffer, cell == Py_True ? "\1" : "\0", 1, 0) : 0;
    case 'T': return is_utc(cell) ? put_eight(buffer, microseconds_of(cell)) : 0;
    case 'D': return PyDate_CheckExact(cell) ? copy_date(buffer, cell) : 0;
    case 'u': return Py_IS_TYPE(cell, self->uuid) ? copy_uuid(buffer, cell) : 0;
    case 'B': return PyBytes_CheckExact(cell) ? put(buffer, PyBytes_AS_STRING(cell), PyBytes_GET_SIZE(cell), 0) : 0;
    case 'd': return Py_IS_TYPE(cell, self->decimal) ? copy_decimal(self, buffer, cell) : 0;
    default: return 0;
    }
}

static PyObject *
codec_copy(RowCodec *self, PyObject *rows)
{
    Py_ssize_t count = PyList_Check(rows) ? PyList_GET_SIZE(rows) : 1;
    Buffer buffer = {0};
    int done = 1;
    for (Py_ssize_t i = 0; i < count && done == 1; i++) {
        PyObject *row = checked(self, rows, i);
        char *at = row ? extend(&buffer, 2) : NULL;
        done = at ? 1 : -1;
        if (done == 1) {
            fetch_rows(self, rows, i);
            put_number(at, (uint64_t)self->count, 2);
        }
        for (Py_ssize_t column = 0; column < self->count && done == 1; column++)
            done = copy_cell(self, &buffer, PyTuple_GET_ITEM(row, column), kind_of(self, column));
    }
    PyObject *result = done < 0 ? NULL : done == 0 ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize(buffer.data, buffer.size);
    PyMem_Free(buffer.data);
    return result;
}

/* -- SQLite: rows whose cells SQLite has types for ------------------------------------------------------------------ */

static PyObject *
time_text(PyObject *cell)
{
    PyObject *text = PyUnicode_New(27, 127);
    if (text == NULL)
        return NULL;
    const int parts[] = {PyDateTime_GET_YEAR(cell), PyDateTime_GET_MONTH(cell), PyDateTime_GET_DAY(cell),
                         PyDateTime_DATE_GET_HOUR(cell), PyDateTime_DATE_GET_MINUTE(cell), PyDateTime_DATE_GET_SECOND(cell),
                         PyDateTime_DATE_GET_MICROSECOND(cell)};
    static const int sizes[] = {4, 2, 2, 2, 2, 2, 6};
    static const char after[] = "--T::.Z";
    char *at = PyUnicode_DATA(text);
    for (int i = 0; i < 7; i++) {
        int value = parts[i];
        for (int j = sizes[i] - 1; j >= 0; j--, value /= 10)
            at[j] = (char)('0' + value % 10);
        at += sizes[i];
        *at++ = after[i];
    }
    return text;
}

/* A cell as SQLite keeps it; NULL, perhaps without an exception, where it is left to Python. */
static PyObject *
sqlite_cell(RowCodec *self, PyObject *cell, char kind)
{
    if (cell == Py_None || strchr("TdDu", kind) == NULL)
        return Py_NewRef(cell);
    if (kind == 'T')
        return is_utc(cell) ? time_text(cell) : NULL;
    return kind == 'd' && Py_IS_TYPE(cell, self->decimal) ? decimal_text(self, cell) : PyObject_Str(cell);
}

static PyObject *
codec_sqlite(RowCodec *self, PyObject *rows)
{
    Py_ssize_t count = PyList_Check(rows) ? PyList_GET_SIZE(rows) : 1;
    PyObject *made = PyList_New(count);
    for (Py_ssize_t i = 0; made != NULL && i < count; i++) {
        PyObject *row = checked(self, rows, i), *cells = row ? PyTuple_New(self->count) : NULL;
        if (cells != NULL)
            fetch_rows(self, rows, i);
        for (Py_ssize_t column = 0; cells != NULL && column < self->count; column++) {
            PyObject *cell = sqlite_cell(self, PyTuple_GET_ITEM(row, column), kind_of(self, column));
            if (cell == NULL)
                Py_CLEAR(cells);
            else
                PyTuple_SET_ITEM(cells, column, cell);
        }
        if (cells == NULL) {
            Py_CLEAR(made);
            break;
        }
        PyObject_GC_UnTrack(cells);
        PyList_SET_ITEM(made, i, cells);
    }
    return made == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : made;
}

/* -- The type ------------------------------------------------------------------------------------------------------- */

static PyObject *
codec_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *view_class, *names, *kinds, *flags, *decimal, *uuid;
    Py_ssize_t limit;
    if (!PyArg_ParseTuple(args, "O!O!SSnO!O!", &PyType_Type, &view_class, &PyTuple_Type, &names, &kinds, &flags, &limit,
                          &PyType_Type, &decimal, &PyType_Type, &uuid))
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(names);
    if (count == 0 || count > MOST_COLUMNS || PyBytes_GET_SIZE(kinds) != count || PyBytes_GET_SIZE(flags) != count) {
        PyErr_SetString(PyExc_ValueError, "kinds and flags are one a column, and there are 1 to 256 columns");
        return NULL;
    }
    RowCodec *self = (RowCodec *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->view_class = (PyTypeObject *)Py_NewRef(view_class);
    self->decimal = (PyTypeObject *)Py_NewRef(decimal);
    self->uuid = (PyTypeObject *)Py_NewRef(uuid);
    self->kinds = Py_NewRef(kinds);
    self->flags = Py_NewRef(flags);
    self->count = count;
    self->limit = limit;
    self->at = PyMem_Calloc((size_t)count, sizeof(Py_ssize_t));
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *name = self->at ? PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i)) : NULL;
        if (name == NULL || slots_of(view_class, &name, 1, &self->at[i]) < 0) {
            if (!PyErr_Occurred())
                PyErr_NoMemory();
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static void
codec_dealloc(RowCodec *self)
{
    Py_XDECREF((PyObject *)self->view_class);
    Py_XDECREF((PyObject *)self->decimal);
    Py_XDECREF((PyObject *)self->uuid);
    Py_XDECREF(self->kinds);
    Py_XDECREF(self->flags);
    PyMem_Free(self->at);
    for (int i = 0; i < KNOWN; i++) {
        Py_XDECREF(self->known[i].decimal);
        Py_XDECREF(self->known[i].text);
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef codec_methods[] = {
    {"freeze", (PyCFunction)codec_freeze, METH_O, "The rows of a list of (key, view)."},
    {"are_good", (PyCFunction)codec_are_good, METH_O, "Whether every database takes these rows for certain."},
    {"copy", (PyCFunction)codec_copy, METH_O, "Rows in PostgreSQL's binary COPY format, without its header and trailer, or None."},
    {"sqlite", (PyCFunction)codec_sqlite, METH_O, "Rows with their cells as SQLite keeps them, or None."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject RowCodec_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "refold.speedups.RowCodec",
    .tp_basicsize = sizeof(RowCodec),
    .tp_new = codec_new,
    .tp_dealloc = (destructor)codec_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "RowCodec(view_class, names, kinds, flags, limit, Decimal, UUID): see refold.view.",
    .tp_methods = codec_methods,
};

int
rows_init(void)
{
    PyDateTime_IMPORT;
    return PyDateTimeAPI == NULL ? -1 : 0;
}
