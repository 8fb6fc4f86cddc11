/* JSON objects to structs, as msgspec decodes them, about twice as fast: where the fields' slots are is known beforehand, the
 * field that is expected next is looked for first, and texts that come again and again are made once. Whatever is out of the
 * ordinary (unknown or repeated fields, escapes, errors of any kind) is left to msgspec.
 */
#include "native.h"

#define MOST_FIELDS 64
#define MOST_DEPTH 16
#define FEW 64           /* texts of a field that are kept, and decimals, which cost more to make: powers of two */
#define MANY 1024
#define TRIES 4096       /* after so many it is seen whether keeping them is of use */
#define LONGEST 23

/* What texts that came lately were decoded to: values are immutable, and those that come again need not be made again. */
typedef struct {
    char size, text[LONGEST];
    PyObject *value;
} Known;

typedef struct {
    PyObject *key; /* bytes: the name in quotes */
    Py_ssize_t at; /* slot in the struct */
    char kind;     /* s text, i int, f float, b bool, d Decimal, t datetime, S struct, o anything: `other` decodes it */
    char nullable;
    PyObject *other;     /* a StructDecoder, or what decodes the field's bytes; NULL where not needed */
    PyObject *otherwise; /* the default; NULL where the field is required */
    Known *known;        /* NULL until the first text, and where it proved of no use */
    unsigned places;     /* in known; 0 for no use */
    int tries, hits;
} Field;

struct StructDecoder {
    PyObject_HEAD
    PyTypeObject *class;
    PyObject *decimal;
    Py_ssize_t count;
    Field *fields;
};

typedef struct {
    const char *at, *end;
    const Stamp *stamp;
    int depth;
} Text;

static inline void
skip_blanks(Text *text)
{
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\n' || *text->at == '\t' || *text->at == '\r'))
        text->at++;
}

static inline int
takes(Text *text, char wanted)
{
    skip_blanks(text);
    if (text->at >= text->end || *text->at != wanted)
        return 0;
    text->at++;
    return 1;
}

static inline int
takes_word(Text *text, const char *word, Py_ssize_t size)
{
    if (text->end - text->at < size || memcmp(text->at, word, (size_t)size) != 0)
        return 0;
    text->at += size;
    return 1;
}

#define TAKES_WORD(text, literal) takes_word(text, literal, (Py_ssize_t)sizeof(literal) - 1)

#define EACH(byte) (0x0101010101010101u * (byte))

/* Whether one of eight bytes is below 0x20, above 0x7f, a quote or a backslash. */
static inline int
is_special(uint64_t eight)
{
    uint64_t quote = eight ^ EACH('"'), backslash = eight ^ EACH('\\');
    return (((eight - EACH(0x20)) | (quote - EACH(1)) | (backslash - EACH(1)) | eight) & EACH(0x80)) != 0;
}

/* The inside of a text without escapes and control characters; 0 where it is none. */
static int
plain_text(Text *text, const char **start, Py_ssize_t *size, int *ascii)
{
    const char *at = text->at, *end = text->end;
    if (at >= end || *at != '"')
        return 0;
    *start = ++at;
    for (uint64_t eight; end - at >= 8; at += 8) {
        memcpy(&eight, at, 8);
        if (is_special(eight))
            break;
    }
    unsigned char high = 0;
    for (; at < end && *at != '"'; at++) {
        if ((unsigned char)*at < 0x20 || *at == '\\')
            return 0;
        high |= (unsigned char)*at;
    }
    if (at == end)
        return 0;
    *size = at - *start;
    *ascii = high < 0x80;
    text->at = at + 1;
    return 1;
}

PyObject *
ascii_str(const char *start, Py_ssize_t size)
{
    PyObject *made = PyUnicode_New(size, 127);
    if (made != NULL && size)
        memcpy(PyUnicode_DATA(made), start, (size_t)size);
    return made;
}

static PyObject *
decimal_of(PyObject *decimal, const char *start, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++)
        if (!((start[i] >= '0' && start[i] <= '9') || start[i] == '.' || start[i] == '-'))
            return NULL;
    PyObject *digits = ascii_str(start, size), *made = digits ? PyObject_CallOneArg(decimal, digits) : NULL;
    Py_XDECREF(digits);
    return made;
}

static void
forget(Field *field)
{
    for (unsigned i = 0; field->known != NULL && i < field->places; i++)
        Py_XDECREF(field->known[i].value);
    PyMem_Free(field->known);
    field->known = NULL;
    field->places = 0;
}

/* Where the value of a text is kept; NULL where it is of no use to keep it. */
static Known *
place_of(Field *field, const char *start, Py_ssize_t size)
{
    if (field->places == 0 || size == 0 || size > LONGEST)
        return NULL;
    if (field->known == NULL) {
        field->known = PyMem_Calloc(field->places, sizeof(Known));
        if (field->known == NULL)
            return NULL;
    }
    if (field->tries++ >= TRIES) {
        if (field->hits < TRIES / 2) {
            forget(field);
            return NULL;
        }
        field->tries = field->hits = 0;
    }
    unsigned hash = 0;
    for (Py_ssize_t i = 0; i < size; i++)
        hash = hash * 31 + (unsigned char)start[i];
    return &field->known[(hash ^ hash >> 10) & (field->places - 1)];
}

/* A str or a Decimal. */
static PyObject *
read_text(Text *text, Field *field, PyObject *decimal)
{
    const char *start;
    Py_ssize_t size;
    int ascii;
    if (!plain_text(text, &start, &size, &ascii))
        return NULL;
    if (!ascii)
        return decimal ? NULL : PyUnicode_DecodeUTF8(start, size, "strict");
    Known *known = place_of(field, start, size);
    if (known != NULL && known->size == size && memcmp(known->text, start, (size_t)size) == 0) {
        field->hits++;
        return Py_NewRef(known->value);
    }
    PyObject *made = decimal ? decimal_of(decimal, start, size) : ascii_str(start, size);
    if (known != NULL && made != NULL) {
        known->size = (char)size;
        memcpy(known->text, start, (size_t)size);
        Py_XSETREF(known->value, Py_NewRef(made));
    }
    return made;
}

static inline int
is_digit(const Text *text)
{
    return text->at < text->end && *text->at >= '0' && *text->at <= '9';
}

/* Steps over a number as JSON has it; 0 where it is none, 1 for an integer, 2 for any other. */
static int
number(Text *text)
{
    int kind = 1;
    if (text->at < text->end && *text->at == '-')
        text->at++;
    if (!is_digit(text))
        return 0;
    int zero = *text->at++ == '0';
    if (zero && is_digit(text))
        return 0;
    while (is_digit(text))
        text->at++;
    if (text->at < text->end && *text->at == '.') {
        kind = 2;
        text->at++;
        if (!is_digit(text))
            return 0;
        while (is_digit(text))
            text->at++;
    }
    if (text->at < text->end && (*text->at == 'e' || *text->at == 'E'))
        return 0; /* seldom */
    return kind;
}

static PyObject *
read_int(Text *text)
{
    const char *start = text->at;
    if (number(text) != 1)
        return NULL;
    int negative = *start == '-';
    long long value = parse_number(start + negative, text->at);
    return value < 0 ? NULL : PyLong_FromLongLong(negative ? -value : value);
}

static PyObject *
read_float(Text *text)
{
    char copy[40], *stop;
    const char *start = text->at;
    if (!number(text) || text->at - start >= (Py_ssize_t)sizeof(copy))
        return NULL;
    memcpy(copy, start, (size_t)(text->at - start));
    copy[text->at - start] = '\0';
    if (copy[0] == '-' && copy[1] == '0' && copy[2] == '\0')
        return NULL; /* an integer, and integers have no negative zero */
    double value = PyOS_string_to_double(copy, &stop, NULL);
    return value == -1.0 && PyErr_Occurred() ? NULL : PyFloat_FromDouble(value);
}

static PyObject *
read_datetime(Text *text)
{
    const char *start;
    Py_ssize_t size;
    int ascii;
    if (!plain_text(text, &start, &size, &ascii))
        return NULL;
    if (text->stamp != NULL && size == STAMP_SIZE && memcmp(start, text->stamp->text, STAMP_SIZE) == 0)
        return Py_NewRef(text->stamp->value);
    return timestamp_of(start, size);
}

/* Steps over any value, to where it ends if it is valid at all. */
static int
step_over(Text *text)
{
    int depth = 0;
    do {
        if (text->at >= text->end)
            return 0;
        char c = *text->at++;
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        else if (c == '"') {
            while (text->at < text->end && *text->at != '"')
                text->at += *text->at == '\\' ? 2 : 1;
            text->at++;
        }
        else if (depth == 0)
            while (text->at < text->end && *text->at != ',' && *text->at != '}' && *text->at != ']')
                text->at++;
    } while (depth > 0);
    return depth == 0 && text->at <= text->end;
}

static PyObject *
read_other(Text *text, PyObject *decode)
{
    const char *start = text->at;
    PyObject *bytes = step_over(text) ? PyBytes_FromStringAndSize(start, text->at - start) : NULL;
    PyObject *value = bytes ? PyObject_CallOneArg(decode, bytes) : NULL;
    Py_XDECREF(bytes);
    return value;
}

static PyObject *read_struct(StructDecoder *self, Text *text);

static PyObject *
read_value(StructDecoder *self, Field *field, Text *text)
{
    skip_blanks(text);
    if (text->at < text->end && *text->at == 'n' && field->kind != 'o')
        return TAKES_WORD(text, "null") && field->nullable ? Py_NewRef(Py_None) : NULL;
    switch (field->kind) {
    case 's': return read_text(text, field, NULL);
    case 'i': return read_int(text);
    case 'f': return read_float(text);
    case 'b': return TAKES_WORD(text, "true") ? Py_NewRef(Py_True) : TAKES_WORD(text, "false") ? Py_NewRef(Py_False) : NULL;
    case 'd': return read_text(text, field, self->decimal);
    case 't': return read_datetime(text);
    case 'S': return read_struct((StructDecoder *)field->other, text);
    default: return read_other(text, field->other);
    }
}

/* The field that is named next, looked for from the one expected on; -1 where there is none. */
static Py_ssize_t
read_key(const StructDecoder *self, Text *text, Py_ssize_t expected)
{
    skip_blanks(text);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_ssize_t field = expected + i < self->count ? expected + i : expected + i - self->count;
        PyObject *key = self->fields[field].key;
        if (takes_word(text, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))
            return takes(text, ':') ? field : -1;
    }
    return -1;
}

static int
read_fields(StructDecoder *self, Text *text, PyObject **values)
{
    if (!takes(text, '{'))
        return 0;
    if (takes(text, '}'))
        return 1;
    Py_ssize_t field = -1;
    do {
        field = read_key(self, text, field + 1);
        if (field < 0 || values[field] != NULL)
            return 0;
        values[field] = read_value(self, &self->fields[field], text);
        if (values[field] == NULL)
            return 0;
    } while (takes(text, ','));
    return takes(text, '}');
}

static PyObject *
read_struct(StructDecoder *self, Text *text)
{
    PyObject *values[MOST_FIELDS], *made = NULL;
    memset(values, 0, (size_t)self->count * sizeof(PyObject *));
    int well = text->depth++ < MOST_DEPTH && read_fields(self, text, values);
    for (Py_ssize_t i = 0; well && i < self->count; i++) {
        if (values[i] == NULL)
            values[i] = Py_XNewRef(self->fields[i].otherwise);
        well = values[i] != NULL;
    }
    text->depth--;
    if (well)
        made = self->class->tp_alloc(self->class, 0);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (made != NULL)
            SLOT(made, self->fields[i].at) = values[i];
        else
            Py_XDECREF(values[i]);
    }
    return made;
}

/* The struct that a text is; NULL, perhaps with an exception, where msgspec is to decode it. A time that is known already,
 * which payloads often repeat, may be given.
 */
PyObject *
struct_of(StructDecoder *self, const char *start, const char *end, const Stamp *stamp)
{
    Text text = {.at = start, .end = end, .stamp = stamp};
    PyObject *made = read_struct(self, &text);
    skip_blanks(&text);
    if (made != NULL && text.at != end)
        Py_CLEAR(made);
    return made;
}

/* -- The type ------------------------------------------------------------------------------------------------------- */

static int
set_up(StructDecoder *self, Field *field, PyObject *given)
{
    const char *name, *kind;
    PyObject *other, *otherwise;
    int nullable;
    if (!PyArg_ParseTuple(given, "sSspOO", &name, &field->key, &kind, &nullable, &other, &otherwise)) {
        field->key = NULL;
        return -1;
    }
    Py_INCREF(field->key);
    field->kind = kind[0];
    field->nullable = (char)nullable;
    field->places = field->kind == 'd' ? MANY : FEW;
    field->other = other == Py_None ? NULL : Py_NewRef(other);
    field->otherwise = otherwise == Py_Ellipsis ? NULL : Py_NewRef(otherwise);
    if (field->kind == 'S' && !(field->other && Py_IS_TYPE(field->other, &StructDecoder_Type))) {
        PyErr_SetString(PyExc_TypeError, "a struct's field needs a StructDecoder");
        return -1;
    }
    return slots_of((PyObject *)self->class, &name, 1, &field->at);
}

static PyObject *
struct_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *class, *decimal, *fields;
    if (!PyArg_ParseTuple(args, "O!OO!", &PyType_Type, &class, &decimal, &PyTuple_Type, &fields))
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(fields);
    if (count > MOST_FIELDS || PyType_HasFeature((PyTypeObject *)class, Py_TPFLAGS_HAVE_GC)) {
        PyErr_SetString(PyExc_TypeError, "the class has too many fields, or is not without gc");
        return NULL;
    }
    StructDecoder *self = (StructDecoder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->class = (PyTypeObject *)Py_NewRef(class);
    self->decimal = Py_NewRef(decimal);
    self->fields = PyMem_Calloc((size_t)count + 1, sizeof(Field));
    if (self->fields == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (; self->count < count; self->count++)
        if (set_up(self, &self->fields[self->count], PyTuple_GET_ITEM(fields, self->count)) < 0) {
            self->count++;
            Py_DECREF(self);
            return NULL;
        }
    return (PyObject *)self;
}

static void
struct_dealloc(StructDecoder *self)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Field *field = &self->fields[i];
        Py_XDECREF(field->key);
        Py_XDECREF(field->other);
        Py_XDECREF(field->otherwise);
        forget(field);
    }
    PyMem_Free(self->fields);
    Py_XDECREF(self->decimal);
    Py_XDECREF((PyObject *)self->class);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
struct_decode(StructDecoder *self, PyObject *body)
{
    if (!PyBytes_Check(body)) {
        PyErr_SetString(PyExc_TypeError, "bytes are expected");
        return NULL;
    }
    const char *start = PyBytes_AS_STRING(body);
    PyObject *made = struct_of(self, start, start + PyBytes_GET_SIZE(body), NULL);
    if (made != NULL)
        return made;
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
        return NULL;
    PyErr_Clear();
    Py_RETURN_NONE;
}

static PyMethodDef struct_methods[] = {
    {"decode", (PyCFunction)struct_decode, METH_O, "The struct that bytes are; None where msgspec is to decode them."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject StructDecoder_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "refold.speedups.StructDecoder",
    .tp_basicsize = sizeof(StructDecoder),
    .tp_new = struct_new,
    .tp_dealloc = (destructor)struct_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "StructDecoder(class, Decimal, fields): see refold.codecs.structs.",
    .tp_methods = struct_methods,
};
